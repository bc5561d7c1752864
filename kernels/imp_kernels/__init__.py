"""The projection operator on plain arrays: slow reference, CPU kernels, CUDA kernels. Knows neither torch nor click."""
