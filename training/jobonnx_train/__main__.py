"""`python -m jobonnx_train`."""

from jobonnx_train.cli import main

if __name__ == "__main__":
    main()
