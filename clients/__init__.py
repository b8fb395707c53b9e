"""Programs that hold data: local training, tasks, the edge daemon, the mesh peer."""
