"""Images, spectra and galleries: what they tell, and what is said of damaged ones."""

import json

import numpy as np
import pytest

from rainjax.report import Gallery, Panels, pictures
from rainjax.report.results import Results
from tests.report.made_records import full_study, make_record, write_extras, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"), full_study())
    write_extras(folder)
    return folder


def test_spectrum_states_the_power_above_half_the_limit(study):
    drawing = pictures.spectrum(study / "spectrum.json", Results.read(study), "title")
    data = json.loads((study / "spectrum.json").read_text(encoding="utf-8"))
    sums = {
        name: sum(p for f, p in zip(data["frequency"], curve, strict=True) if f > 0.25)
        for name, curve in data["curves"].items()
    }
    share_kept = 100 * sums["RAIN, fine-tuned"] / sums["original"]
    assert f"RAIN, fine-tuned {share_kept:.1f} %" in drawing.caption
    assert "mean over 256 images" in drawing.caption


def test_damaged_pictures_and_spectra_are_named(tmp_path):
    write_study(tmp_path, full_study()[:8])
    write_extras(tmp_path)
    path = tmp_path / "spectrum.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["curves"]["original"].pop()
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=r"spectrum.json .*'original' needs 17 finite values"):
        pictures.spectrum(path, Results.read(tmp_path), "title")

    path = tmp_path / "panels" / "rain_finetuned--eot--r8--k16.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"purified": arrays["purified"][:2]}))
    with pytest.raises(ValueError, match=r"k16.npz must hold images of one shape"):
        pictures.panel(path, "title")
    del arrays["labels"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"k16.npz lacks the array 'labels'"):
        pictures.panel(path, "title")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"k16.npz is damaged"):
        pictures.panel(path, "title")


def test_panels_are_of_the_best_blind_attack_and_the_best_of_all(tmp_path):
    contents = [
        make_record("undefended", "white_box", [0, 0]),
        make_record("rain_finetuned", "blind", [5, 5]),
        make_record("rain_finetuned", "white_box", [5, 0]),
        make_record("rain_finetuned", "eot", [0, 0]),
    ]
    write_study(tmp_path, contents)
    write_extras(tmp_path)
    (kept,) = (tmp_path / "panels").glob("*.npz")
    for content in contents:
        (tmp_path / "panels" / f"{content['id']}.npz").write_bytes(kept.read_bytes())
    drawings = Panels().drawings(Results.read(tmp_path))
    assert [drawing.title.split(",")[1] for drawing in drawings] == [
        " fine-tuned against purifier-blind PGD", " fine-tuned against EOT-PGD",
    ]  # fmt: skip


def test_a_gallery_takes_pictures_in_grey_as_well(tmp_path):
    write_study(tmp_path, full_study()[:1])
    pictures_of = np.zeros((2, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "gallery.npz", images=pictures_of, titles=np.array(["one", "two"]))
    (drawing,) = Gallery().drawings(Results.read(tmp_path))
    assert drawing.alt == "The first image behind one, two"
    np.savez(tmp_path / "gallery.npz", titles=np.array(["one", "two"]))
    with pytest.raises(ValueError, match=r"gallery.npz is damaged"):
        Gallery().drawings(Results.read(tmp_path))
