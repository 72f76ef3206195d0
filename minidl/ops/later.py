"""Pages of ops that are read when one of their names is first used, which keeps `import minidl` light.

A page's names of `minidl`, and the methods that it gives Tensor. Pages that are in neither table are read by whoever
imports them: `minidl/__init__.py`, `minidl/nn/functional.py`, `minidl/linalg.py`. A test compares both tables with
what the pages do.
"""

from minidl.autograd.later import attach_later

NAMES = {
    "activations": "celu selu",
    "angles": "deg2rad hypot rad2deg sinc",
    "bessel": "i0",
    "blends": "addcdiv addcmul lerp rsub",
    "conv": "conv1d conv2d conv_transpose1d conv_transpose2d",
    "cumulative": "cumprod",
    "diagonals": "diag diag_embed diagonal tril triu",
    "distances": "cosine_similarity norm pairwise_distance",
    "draws": "normal randint_like tril_indices triu_indices",
    "dropout": "dropout",
    "einsum": "einsum",
    "error_function": "erf erfc erfinv",
    "exchange": "from_dlpack",
    "factorizations": "cholesky cholesky_solve det inverse logdet matrix_exp matrix_power pinverse qr slogdet",
    "gamma": "digamma lgamma mvlgamma polygamma",
    "grids": """
        atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod
        column_stack combinations diagflat dsplit dstack hsplit rot90 row_stack tensor_split vsplit""",
    "hard_activations": "prelu relu threshold",
    "incomplete_gamma": "igamma igammac",
    "integers": "bitwise_left_shift bitwise_right_shift frexp gcd lcm",
    "log_odds": "float_power ldexp logaddexp2 logit xlogy",
    "more_products": "addbmm addr chain_matmul ger kron vdot",
    "products": "addmm addmv baddbmm mv tensordot",
    "quantiles": "nanmean nanmedian nanquantile nansum quantile",
    "running": "cummax cummin diff logcumsumexp",
    "scatter_reductions": """
        diagonal_scatter index_put index_reduce masked_scatter scatter_reduce select_scatter slice_scatter""",
    "searching": "bucketize histc histogram isin mode searchsorted unique_consecutive",
    "second_names": """
        absolute adjoint clamp_max clamp_min detach fix fliplr flipud greater greater_equal less less_equal
        moveaxis msort negative not_equal swapdims""",
    "shuffles": "channel_shuffle pixel_shuffle pixel_unshuffle",
    "signs_of_floats": "copysign fmax fmin heaviside isneginf isposinf isreal nextafter positive sgn signbit",
    "slopes": "gradient",
    "sorting": "argsort kthvalue median sort topk unique",
    "spacings": """
        asarray bartlett_window blackman_window hamming_window hann_window logspace poisson range scalar_tensor""",
    "statistics": """
        aminmax cdist corrcoef cov cumulative_trapezoid dist pdist renorm std_mean trapezoid trapz vander
        var_mean""",
    "strides": "as_strided put unravel_index",
    "trigonometry": """
        acos acosh arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh cos cosh sin
        sinh tan tanh""",
    "vectors": "bincount cross index_copy index_fill inner take",
}

METHODS = {
    "angles": "deg2rad deg2rad_ rad2deg rad2deg_ hypot hypot_ sinc sinc_",
    "bessel": "i0 i0_",
    "blends": "addcmul addcmul_ addcdiv addcdiv_ lerp lerp_ __rdiv__",
    "cumulative": "cumprod cumprod_",
    "diagonals": "diagonal diag_embed diag trace tril tril_ triu triu_",
    "distances": "norm",
    "draws": "random_ exponential_ multinomial new_zeros new_ones new_empty new_full new_tensor pin_memory",
    "error_function": "erf erf_ erfc erfc_ erfinv erfinv_",
    "factorizations": "inverse pinverse det slogdet logdet cholesky cholesky_solve qr matrix_power matrix_exp",
    "gamma": "lgamma lgamma_ digamma digamma_ mvlgamma mvlgamma_ polygamma",
    "grids": "tensor_split hsplit vsplit dsplit rot90 diagflat",
    "hard_activations": "relu relu_ prelu",
    "incomplete_gamma": "igamma igamma_ igammac igammac_",
    "in_place": "t_ transpose_ swapaxes_ swapdims_ squeeze_ unsqueeze_",
    "integers": """
        gcd gcd_ lcm lcm_ bitwise_left_shift bitwise_left_shift_ __lshift__ __rlshift__ __ilshift__
        bitwise_right_shift bitwise_right_shift_ __rshift__ __rrshift__ __irshift__ frexp""",
    "log_odds": "logit logit_ xlogy xlogy_ logaddexp2 float_power ldexp ldexp_",
    "more_products": "addbmm addbmm_ addr addr_ ger vdot kron",
    "products": "mv addmm addmm_ addmv addmv_ baddbmm baddbmm_",
    "quantiles": "nansum nanmean nanmedian quantile nanquantile",
    "running": "cummax cummin logcumsumexp diff",
    "scatter_reductions": """
        scatter_reduce scatter_reduce_ index_reduce index_reduce_ index_put index_put_ masked_scatter
        masked_scatter_ slice_scatter select_scatter diagonal_scatter fill_diagonal_""",
    "searching": "mode unique_consecutive histc histogram",
    "second_names": """
        absolute absolute_ negative negative_ fix fix_ greater greater_ greater_equal greater_equal_ less less_
        less_equal less_equal_ not_equal not_equal_ gt gt_ ge ge_ lt lt_ le le_ ne ne_ eq eq_ clamp_min
        clamp_min_ clamp_max clamp_max_ swapdims moveaxis flipud fliplr msort adjoint H mH""",
    "signs_of_floats": """
        signbit isposinf isneginf isreal sgn sgn_ positive copysign copysign_ heaviside heaviside_ fmax fmin
        nextafter nextafter_""",
    "sorting": "sort argsort topk kthvalue median unique",
    "statistics": "aminmax cov corrcoef dist renorm renorm_",
    "strides": "as_strided resize_ resize_as_ put put_",
    "trigonometry": """
        sin sin_ cos cos_ tanh tanh_ tan tan_ asin asin_ acos acos_ atan atan_ atan2 atan2_ sinh sinh_ cosh
        cosh_ asinh asinh_ acosh acosh_ atanh atanh_ arcsin arcsin_ arccos arccos_ arctan arctan_ arctan2
        arctan2_ arcsinh arcsinh_ arccosh arccosh_ arctanh arctanh_""",
    "vectors": "cross inner bincount take index_fill index_fill_ index_copy index_copy_",
    "windows": "unfold",
}

PAGE_OF = {name: f"minidl.ops.{page}" for page, names in NAMES.items() for name in names.split()}

for _page in {**NAMES, **METHODS}:
    attach_later(f"minidl.ops.{_page}", METHODS.get(_page, "").split())
