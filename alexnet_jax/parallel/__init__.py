"""How a run is laid out over devices: the mesh, and every collective."""
