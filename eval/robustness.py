"""Runs a robustness study: RAIN, before and after fine-tuning, against five attackers."""

import pathlib

from eval import admission, bench
from eval import study as st
from eval.config import Robustness
from eval.spectra import spectra
from rainjax import data
from rainjax._files import write_json


def run(config: Robustness) -> pathlib.Path:
    """Runs the study, or what is missing of it, and returns its folder.

    Raises:
        ValueError: the folder holds a study of another configuration, or the data set, the
            networks and the options do not fit each other.
    """
    images = data.load(config.data, config.split, data_dir=config.data_dir)
    found = st.rows(config)
    height = admission.check(config, images, found[0])
    cells = st.cells(config, found, height)
    admission.claim(config.folder, admission.identity(config, images, found))
    made = bench.measure(config, images, cells)
    if made or not (config.folder / "spectrum.json").exists():
        write_json(config.folder / "spectrum.json", spectra(config, images, found))
    return config.folder
