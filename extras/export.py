"""Export a checkpoint to ONNX, check the file against PyTorch, and compare the speeds.

    pip install -r extras/requirements-extras.txt
    python extras/export.py --ckpt pretrained/resnet18.pt

Writes CHECKPOINT.onnx: uint8 images N×28×28 in, probabilities N×10 out, for any N; preprocessing is
part of it. Class names, accuracy, options and git revision are in its metadata. All test images are
classified by ONNX Runtime and by PyTorch: if a probability differs by more than rounding, no file
is written. --int8 writes a second file with 8-bit integers (static quantisation, calibrated on
training images). --table measures the speeds and writes them into a Markdown file.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

try:
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    sys.exit(f"export.py: {error}; run: pip install -r extras/requirements-extras.txt")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from analyze import write_table
from extras.bench import infer, measure

TOLERANCE = 1e-3  # of a probability, between ONNX Runtime and PyTorch in float32


class Deployed(nn.Module):
    """A classifier from bytes to probabilities: uint8 N×28×28 → float32 N×10."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(data.preprocess(images)).softmax(1)


class Calibration(CalibrationDataReader):
    """Gives training images to the quantiser, which measures the range of each activation."""

    def __init__(self, images):
        self.batches = iter([{"images": batch.numpy()} for batch in images.split(128)])

    def get_next(self):
        return next(self.batches, None)


# ---- Writing ONNX files


def export(deployed, path):
    """Write a classifier as ONNX.

    Raises:
        UserError: PyTorch cannot translate the network.
    """
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)
    try:
        torch.onnx.export(
            deployed,
            (example,),
            path,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise data.UserError(f"PyTorch cannot export this network to ONNX: {reason}") from None


def quantise(path, images, target):
    """Write the int8 version of an ONNX file: weights by channel, activations calibrated.

    Activations are unsigned and weights signed, as the processors' instructions (VNNI) need them:
    with both signed, ONNX Runtime is about two times slower, or more. Without VNNI, sums of two
    products may saturate; the accuracy that is printed shows whether this matters.
    """
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(path), str(prepared))
    quantize_static(
        str(prepared), str(target), Calibration(images), per_channel=True,
        activation_type=QuantType.QUInt8,
    )  # fmt: skip


def annotate(path, **facts):
    """Put text into the metadata of an ONNX file."""
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in facts.items()})
    onnx.save(graph, path)


# ---- Checking them


def open_session(path, threads):
    """Return an ONNX Runtime session on the CPU.

    Raises:
        UserError: the file takes batches of one size only.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if isinstance(session.get_inputs()[0].shape[0], int):  # else it is a name, "batch"
        raise data.UserError(
            "the exported network takes batches of one size only; in its forward(), use "
            "x.flatten(1) or x.shape[0] instead of len(x)"
        )
    return session


def predict(session, images):
    """Return the probabilities N×10 of uint8 images N×28×28 by ONNX Runtime."""
    batches = images.split(250)
    return torch.cat([torch.tensor(session.run(None, {"images": b.numpy()})[0]) for b in batches])


def compare(name, probabilities, reference, labels):
    """Print how two tensors of probabilities differ; return the largest difference."""
    changed = (probabilities.argmax(1) != reference.argmax(1)).sum()
    largest = (probabilities - reference).abs().max().item()
    print(
        f"{name}: accuracy {100 * evaluate.accuracy(probabilities, labels):.2f} %, {changed} of "
        f"{len(labels):,} predictions differ from PyTorch's, largest difference of a probability "
        f"{largest:.2g}"
    )
    return largest


# ---- Comparing speeds


def in_runtime(session, x, count):
    """Return a case, as ``infer`` does, that classifies a batch some times with ONNX Runtime."""

    def run():
        for _ in range(count):
            session.run(None, {"images": x.numpy()})
        return count * len(x)

    return run


def measure_speeds(networks, sessions, images, repeats):
    """Measure the ways of inference in turn.

    Args:
        networks: by name: the network, its type for autocast or None.
        sessions: by name: an ONNX Runtime session.
        images: uint8 tensor of at least 256 images.
        repeats: measurements of each speed.

    Returns:
        By name: milliseconds at batch 1, images per second at batch 256.
    """
    cases = {}
    for size, count in ((1, 50), (256, 1)):
        x = images[:size]
        for name, (deployed, dtype) in networks.items():
            cases[name, size] = infer(deployed, x, count, dtype)
        for name, session in sessions.items():
            cases[name, size] = in_runtime(session, x, count)
    rates = measure(cases, repeats, torch.device("cpu"))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return {name: (1000 / medians[name, 1], medians[name, 256]) for name in (*networks, *sessions)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help="checkpoint of train.py")
    add("--out", type=Path, help="file to write; None: the checkpoint's name with .onnx")
    add("--int8", action="store_true", help="write a quantised file, too")
    add("--table", type=Path, help="Markdown file for the speeds; None: do not measure them")
    add("--repeats", type=data.number(int, 1, 1000), default=7, help="measurements of each speed")
    add("--threads", type=data.number(int, 0, 1024), default=0,
        help="CPU threads; 0: PyTorch's choice")  # fmt: skip
    add("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()

    out = args.out or args.ckpt.with_suffix(".onnx")
    if out.resolve() == args.ckpt.resolve():
        raise data.UserError(f"--out {out} is the checkpoint: choose another name")
    if out.suffix != ".onnx":
        raise data.UserError(f"--out {out} must end in .onnx")
    if args.table and not (args.table.suffix == ".md" and args.table.parent.is_dir()):
        raise data.UserError(f"--table {args.table} must end in .md, in a folder that exists")
    cpu = evaluate.use_device("cpu", args.threads)
    threads = torch.get_num_threads()
    model, checkpoint = evaluate.load_model(args.ckpt)
    deployed = Deployed(model).eval()
    images, labels = data.load(args.data_dir, train=False)
    reference = evaluate.predict(model, images).softmax(1)
    accuracy = evaluate.accuracy(reference, labels)
    print(f"PyTorch: accuracy {100 * accuracy:.2f} %")
    out.parent.mkdir(parents=True, exist_ok=True)
    small = out.with_name(f"{out.stem}-int8.onnx")
    files = {"ONNX Runtime, float32": out}
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "model.onnx"
        export(deployed, made)
        facts = {"classes": json.dumps(data.CLASSES), "epoch": checkpoint["epoch"],
                 "config": json.dumps(checkpoint["config"])}  # fmt: skip
        annotate(made, **facts, accuracy=accuracy)
        probabilities = predict(open_session(made, threads), images)
        largest = compare("ONNX Runtime, float32", probabilities, reference, labels)
        if largest > TOLERANCE:
            raise data.UserError(f"probabilities differ by {largest:.2g}: no file is written")
        if args.int8:
            train_images, _ = data.load(args.data_dir, train=True)
            chosen, _ = data.split_indices()
            quantised = Path(folder) / "int8.onnx"
            quantise(made, train_images[chosen[:1024]], quantised)
            probabilities = predict(open_session(quantised, threads), images)
            compare("ONNX Runtime, int8", probabilities, reference, labels)
            annotate(quantised, **facts, accuracy=evaluate.accuracy(probabilities, labels))
            files["ONNX Runtime, int8"] = small
            data.write_file(small, quantised.read_bytes())
        data.write_file(out, made.read_bytes())
    print(f"written: {', '.join(map(str, files.values()))}")
    if not args.table:
        return

    plain = copy.deepcopy(deployed).to(memory_format=torch.contiguous_format)
    networks = {"PyTorch, float32, NCHW": (plain, None), "PyTorch, float32": (deployed, None)}
    if evaluate.has_native_bfloat16(cpu):
        networks["PyTorch, bfloat16"] = (deployed, torch.bfloat16)
    sessions = {name: open_session(path, threads) for name, path in files.items()}
    scores = {name: predict(session, images) for name, session in sessions.items()}
    for name, (network, dtype) in networks.items():
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            scores[name] = evaluate.predict(network.model, images)
    speeds = measure_speeds(networks, sessions, images, args.repeats)
    rows = [
        {
            "inference with": name,
            "ms at batch 1": f"{ms:.2f}",
            "images/s at batch 256": f"{rate:.0f}",
            "test accuracy": f"{100 * evaluate.accuracy(scores[name], labels):.2f} %",
            "MB of the file": f"{files.get(name, args.ckpt).stat().st_size / 1e6:.1f}",
        }
        for name, (ms, rate) in speeds.items()
    ]
    machine = (
        f"Measured on {evaluate.describe_device(cpu)}, {threads} threads, "
        f"PyTorch {torch.__version__}, ONNX Runtime {ort.__version__}"
    )
    write_table(rows, args.table, [machine])
    print(args.table.read_text(encoding="utf-8"))


if __name__ == "__main__":
    data.run_script(main)
