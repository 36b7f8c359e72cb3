"""The recipe and the training runs of the small model that comes with jobonnx: `python -m jobonnx_train`."""
