"""What a pickle may import under the policy ``scan``: functions and classes that only build tensors, arrays and plain data.

What torch.load(weights_only=True) lets in, numpy's arrays and scalars, and the plain types of Python. No module stands here as a
whole: what it imports itself would stand with it. Neither torch.storage._load_from_bytes (another torch.load) nor getattr is here.
https://github.com/pytorch/pytorch/blob/main/torch/_weights_only_unpickler.py (_get_allowed_globals)
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BUILTINS = _names("set frozenset bytearray bytes complex dict list tuple int float bool str slice object")
_ELEMENTS = _names(
    "Float Double Half BFloat16 Byte Char Short Int Long Bool ComplexFloat ComplexDouble QUInt8 QInt8 QInt32 QUInt4x2 QUInt2x4"
)
_STORAGES = frozenset(f"{element}{kind}" for element in _ELEMENTS for kind in ("Storage", "Tensor"))
_DTYPES = _names("""
    bool uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 float32 float64 half float double short int long bfloat16
    complex32 complex64 complex128 cfloat cdouble chalf qint8 quint8 qint32 quint4x2 quint2x4
    float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2
""")
_TORCH = _names("""
    Size Tensor device strided sparse_coo preserve_format contiguous_format
    per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric per_channel_affine_float_qparams
""")
_REBUILD = _names("""
    _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3
    _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor
""")
_NUMPY = _names("""
    dtype ndarray bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128
    str_ bytes_ datetime64 timedelta64 longlong ulonglong intc uintc
""")

#: Names by module.
HARMLESS: dict[str, frozenset[str]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS | _names("unicode long"),
    "collections": _names("OrderedDict Counter defaultdict deque"),
    "datetime": _names("date datetime time timedelta timezone"),
    "decimal": _names("Decimal"),
    "argparse": _names("Namespace"),
    "types": _names("SimpleNamespace"),
    "_codecs": _names("encode"),  # how protocol 2 writes bytes
    "numpy": _NUMPY,
    "numpy.core.multiarray": _names("_reconstruct scalar"),
    "numpy._core.multiarray": _names("_reconstruct scalar"),
    "numpy.core.numeric": _names("_frombuffer"),
    "numpy._core.numeric": _names("_frombuffer"),
    "torch": _TORCH | _DTYPES | _STORAGES,
    "torch.cuda": _STORAGES,
    "torch.storage": _names("TypedStorage UntypedStorage"),
    "torch._utils": _REBUILD,
    "torch._tensor": _names("_rebuild_from_type_v2"),
    "torch.nn.parameter": _names("Parameter Buffer"),
    "torch.serialization": _names("_get_layout"),
}
