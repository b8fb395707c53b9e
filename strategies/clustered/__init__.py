"""Clustered and personalised strategies: a model for every group of like peers.

All of them must see each update (``needs = "each"``): who is like whom is read off
the directions in which single peers move. A secure sum hides just that, so it is
refused with them. Where single updates must stay hidden, IFCA's idea of letting peers
choose for themselves is the closest relative, but the choice is told here as well.
"""
