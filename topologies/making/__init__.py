"""Scripts that wrote files of the catalog; nobody needs them to use it."""
