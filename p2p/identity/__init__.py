"""Who a peer is, who may join, and how both are proved with signatures."""
