"""Published weights from the Hugging Face Hub. Nothing is fetched unless `download` is called."""

import dataclasses

from rainjax._extras import require
from rainjax.zoo._arrays import ENDINGS
from rainjax.zoo._published import load_any, published
from rainjax.zoo._store import Entry


def download(
    repo: str,
    filename: str = "model.safetensors",
    *,
    architecture: str,
    revision: str | None = None,
) -> Entry:
    """Returns the weights in a repository of the Hugging Face Hub, as `load_any` those in a file.

    `zoo.download("timm/resnet50.a1_in1k", architecture="resnet50_torchvision")`, for example.
    `architecture` is a key of `PUBLISHED`, `revision` a branch, tag or commit. What was fetched
    once stays in huggingface_hub's cache. The entry is named after the repository.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: there is no such repository, revision or file.
        ConnectionError: the Hub gave no answer, or one that is no file.
        ValueError: as `load_any`, and for a name that no repository can have.
    """
    published(architecture)
    if not filename.lower().endswith(ENDINGS):
        raise ValueError(
            f"{filename!r} cannot be read, which must end in {' or '.join(ENDINGS)}: name another "
            f"file of {repo!r}."
        )
    entry = load_any(_fetch(repo, filename, revision, architecture), architecture)
    return dataclasses.replace(entry, name=repo)


def _fetch(repo: str, filename: str, revision: str | None, architecture: str) -> str:
    hub, errors = (
        require(
            module,
            name="huggingface_hub",
            extra="hub",
            otherwise=f", or load a file that is here with zoo.load_any(path, {architecture!r})",
        )
        for module in ("huggingface_hub", "huggingface_hub.errors")
    )
    elsewhere = (
        "fetch the file where there is a network, and load it with "
        f"zoo.load_any(path, {architecture!r})"
    )
    try:
        return hub.hf_hub_download(repo, filename, revision=revision)
    except errors.HFValidationError:
        raise ValueError(
            f"{repo!r} cannot be a repository, whose name is like 'timm/resnet50.a1_in1k'; "
            f"load a file that is here with zoo.load_any(path, {architecture!r})."
        ) from None
    except errors.GatedRepoError:
        raise FileNotFoundError(
            f"The repository {repo!r} is shown only to those who accepted its terms: accept them "
            "on its page, log in with `hf auth login`, and try again."
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"The Hub has no repository {repo!r}, or does not show it to you: look its name up "
            "or, if it is private, log in with `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"The repository {repo!r} has no revision {revision!r}: name a branch, tag or commit "
            "it has, or leave it out."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"The Hugging Face Hub cannot be reached ({_reason(error)}), and {filename!r} of "
            f"{repo!r} is not in the cache: {elsewhere}."
        ) from error
    except errors.EntryNotFoundError:
        raise FileNotFoundError(
            f"The repository {repo!r} has no file {filename!r}: give as filename one that its "
            "page lists."
        ) from None
    except Exception as error:  # a broken connection raises what the transport's library has
        raise ConnectionError(
            f"The download of {filename!r} of {repo!r} failed ({_reason(error)}): try again, or "
            f"{elsewhere}."
        ) from error


def _reason(error: BaseException) -> str:
    """Returns what kept the file away, in a few words."""
    while error.__cause__ is not None:  # the library's own words hide what happened below
        error = error.__cause__
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
