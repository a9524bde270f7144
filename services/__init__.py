"""The two services. They stand on `shared` and never on each other."""
