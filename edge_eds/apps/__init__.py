"""The commands of edge-eds: what talks to people. Only `cli` and this package print."""
