"""Split learning: the first blocks of a model stay with the client, the rest do not.

The client keeps its examples and the front of the model, the server has the back;
what crosses is the activations at the cut and their gradient. The weights that come
out are, bit for bit, those of the same training in one place.
"""
