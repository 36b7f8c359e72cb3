"""The recipe and the training run of the small model that comes with jobonnx: `python -m jobonnx_train`."""
