"""Models as ONNX graphs with a cache: shared by the engines that run graphs."""
