"""How a run is laid out over devices: the mesh, and where the towers meet. All collectives live here."""
