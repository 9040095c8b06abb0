"""The two services. They never import each other."""
