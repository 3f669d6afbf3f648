"""The pages on many machines: their commands are commands, their manifest is a manifest."""

import pathlib
import re
import shlex

import pytest
import tyro
import yaml

from rainjax.__main__ import Command, Evaluate, Merge
from rainjax.evaluation import Shard, shard_of_array

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "distributed.md").read_text()
COMMANDS = re.findall(r"(?:^|`|[ ])(rainjax (?:evaluate|merge) [^`\n#]+)", PAGE, re.MULTILINE)


def test_every_command_of_the_page_is_one():
    parsed = [tyro.cli(Command, args=shlex.split(line)[1:]) for line in COMMANDS]
    assert len(parsed) >= 10
    kinds = {type(command) for command in parsed}
    assert kinds == {Evaluate, Merge}
    shards = [c.shard for c in parsed if isinstance(c, Evaluate) and c.shard]
    assert shards == ["0/3", "1/3", "2/3", "$SLURM_ARRAY_TASK_ID/16"]
    (submitted,) = [c for c in parsed if isinstance(c, Evaluate) and c.submit]
    assert (submitted.submit, submitted.array, submitted.jobs.gpus) == ("slurm", 16, 1)


def test_options_that_the_text_names_are_there(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Command, args=["evaluate", "--help"])
    told = capsys.readouterr().out
    for option in set(re.findall(r"`?(--[a-z][a-z.-]+)", PAGE)) - _OTHERS:
        assert option in told, option


_OTHERS = {
    "--array",  # of sbatch too
    "--gpus-per-node",
    "--ntasks",
    "--from-file",
    "--for",
    "--timeout",
    "--follow",
    "--pod-running-timeout",
    "--study",  # of `rainjax merge`
}


def test_the_manifest_is_an_indexed_job_whose_pods_find_their_shares():
    (job,) = yaml.safe_load_all((DOCS / "kubernetes-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert 1 <= spec["parallelism"] <= spec["completions"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")  # what a Job allows
    (container,) = pod["containers"]
    assert container["image"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert all(isinstance(value, str) for value in environment.values())
    count = spec["completions"]
    for index in (0, count - 1):
        shard = shard_of_array(environment | {"JOB_COMPLETION_INDEX": str(index)})
        assert shard == Shard(index, count)
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == volumes
    assert container["command"][0] == "rainjax"
    command = tyro.cli(Command, args=container["command"][1:])
    assert isinstance(command, Evaluate)
    assert str(command.out) == mounts["results"]
    assert command.study.startswith(mounts["study"] + "/")
    assert f"job/{job['metadata']['name']}" in PAGE


def test_the_shares_are_merged_where_the_job_left_them():
    (job,) = yaml.safe_load_all((DOCS / "kubernetes-job.yaml").read_text())
    (pod,) = yaml.safe_load_all((DOCS / "kubernetes-merge.yaml").read_text())
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    assert f"pod/{pod['metadata']['name']}" in PAGE
    made, merged = job["spec"]["template"]["spec"], pod["spec"]
    claims = {volume["name"]: volume for volume in made["volumes"]}
    (volume,) = merged["volumes"]
    assert volume == claims["results"]
    (container,), (maker,) = merged["containers"], made["containers"]
    assert container["image"] == maker["image"]
    assert all(mount in maker["volumeMounts"] for mount in container["volumeMounts"])
    shell, option, line = container["command"]
    assert (shell, option) == ("sh", "-c")
    words = shlex.split(line.split("&&")[0])
    assert words[0] == "rainjax"
    command = tyro.cli(Command, args=words[1:])
    assert isinstance(command, Merge)
    (folder,) = command.folders
    (mount,) = container["volumeMounts"]
    assert str(folder.parent) == mount["mountPath"]
    assert f"{pod['metadata']['name']}:{folder}" in PAGE
