"""Our own runtime: a candidate as modules over shared tensors, its cache, its generation loop."""
