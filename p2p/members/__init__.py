"""Who is on the mesh, who may come in, and where peers were found."""
