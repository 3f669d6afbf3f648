"""Programs that train the networks: `python -m train.super_resolution smoke`."""

from rainjax._extras import require

for _module, _name in (
    ("grain", "grain"),
    ("matplotlib", "matplotlib"),
    ("optax", "Optax"),
    ("orbax.checkpoint", "Orbax"),
    ("tensorboardX", "tensorboardX"),
):
    require(_module, name=_name, extra="train")
