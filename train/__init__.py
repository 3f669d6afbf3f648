"""Programs that train the networks: `python -m train.super_resolution smoke`."""
