"""Parametric heads behind one `HeadModel`: open_head (packaged), FLAME, GNM and ICT (user's files)."""
