"""`python -m jobonnx_train`."""

from jobonnx_train.train import main

main()
