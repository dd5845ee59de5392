"""edgesmith takes a segmentation network from architecture search to a validated batch-1 engine on an edge device.

`edgesmith.models` is what a network is, `edgesmith.pipeline` how it is made, `edgesmith.deploy` what runs on the device.
Importing this package imports none of them.
"""

__version__ = "0.1.0"
