"""What the CUDA families share: `launch` reads, compiles and runs the .cu files beside them."""
