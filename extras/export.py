"""Export a checkpoint to ONNX, prove that it gives the same answers, compare the speeds.

    pip install -r extras/requirements-extras.txt
    python extras/export.py --ckpt pretrained/resnet18.pt

Writes <checkpoint>.onnx: uint8 images N×28×28 in, probabilities N×10 out, any N, the normalisation
inside; class names, accuracy, options and git revision are in its metadata. All test images then go
through ONNX Runtime and through PyTorch: where they differ by more than rounding, no file is left.
With --int8 a second file is quantised (statically, calibrated on training images) and judged; with
--table the speeds of all are measured in one run and written to a Markdown file.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

try:
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    sys.exit(f"export.py: {error}; run: pip install -r extras/requirements-extras.txt")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import evaluate
from extras.bench import measure
from train import has_native_bfloat16

TOLERANCE = 1e-3  # of a probability, between ONNX Runtime and PyTorch in float32


class Deployed(nn.Module):
    """A classifier from bytes to probabilities: uint8 N×28×28 → float32 N×10."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(data.normalize(images)).softmax(1)


class Calibration(CalibrationDataReader):
    """Hands training images to the quantiser, which measures the range of each activation."""

    def __init__(self, images, batch_size=128):
        self.batches = iter(images.split(batch_size))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


def open_session(path, threads):
    """An ONNX Runtime session on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def predict(session, images, batch_size=250):
    """Probabilities N×10 of uint8 images N×28×28 by ONNX Runtime."""
    batches = images.split(batch_size)
    return torch.cat([torch.tensor(session.run(None, {"images": b.numpy()})[0]) for b in batches])


def compare(name, ours, reference, labels):
    """Print how two sets of probabilities differ; return the accuracy and largest difference."""
    changed = (ours.argmax(1) != reference.argmax(1)).nonzero().flatten().tolist()
    accuracy = (ours.argmax(1) == labels).double().mean().item()
    largest = (ours - reference).abs().max().item()
    print(
        f"{name}: accuracy {100 * accuracy:.2f} %, {len(changed)} of {len(labels):,} answers "
        f"differ from PyTorch's, largest difference of a probability {largest:.2g}"
    )
    for index in changed[:20]:
        top = reference[index].topk(2).values
        print(
            f"  image {index}: PyTorch's margin between its two first classes {top[0] - top[1]:.4f}"
        )
    return accuracy, largest


def export(model, path):
    """Write a model as ONNX."""
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)
    torch.onnx.export(
        Deployed(model.to(memory_format=torch.contiguous_format)),
        (example,),
        path,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def quantise(path, images, target):
    """Write the int8 version of an ONNX file: weights by channel, activations calibrated.

    Activations are unsigned and weights signed, as the processors' own instructions (VNNI) want
    them: with both signed, ONNX Runtime is two to four times slower. Where VNNI is missing, sums of
    two products may saturate; the accuracy that is printed tells whether it matters.
    """
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(path), str(prepared))
    quantize_static(
        str(prepared), str(target), Calibration(images), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8,
    )  # fmt: skip


def annotate(path, **facts):
    """Put text into the metadata of an ONNX file."""
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in facts.items()})
    onnx.save(graph, path)


def tabulate(models, sessions, sizes, images, args):
    """Measure all ways of inference in one run, interleaved; return the lines of a table."""
    rows = [f"{evaluate.describe_device(torch.device('cpu'))}, {torch.get_num_threads()} threads, "
            f"PyTorch {torch.__version__}, ONNX Runtime {ort.__version__}", "",
            "| way | ms at batch 1 | images/s at batch 256 | test accuracy | MB |",
            "| --- | --- | --- | --- | --- |"]  # fmt: skip
    cases = {}
    for batch, count in ((1, 50), (256, 1)):
        x = images[:batch]

        def in_pytorch(deployed, dtype, x=x, count=count):
            @torch.no_grad()
            def run():
                for _ in range(count):
                    with torch.autocast("cpu", dtype, enabled=dtype is not None):
                        deployed(x)
                return count * len(x)

            return run

        def in_runtime(session, x=x, count=count):
            def run():
                for _ in range(count):
                    session.run(None, {"images": x.numpy()})
                return count * len(x)

            return run

        for name, (deployed, dtype) in models.items():
            cases[name, batch] = in_pytorch(deployed, dtype)
        for name, session in sessions.items():
            cases[name, batch] = in_runtime(session)
    rates = measure(cases, args.repeats, torch.device("cpu"))
    middle = {key: sorted(values)[len(values) // 2] for key, values in rates.items()}
    for name in (*models, *sessions):
        accuracy, size = sizes[name]
        rows.append(
            f"| {name} | {1000 / middle[name, 1]:.2f} | {middle[name, 256]:.0f} | "
            f"{100 * accuracy:.2f} % | {size / 1e6:.1f} |"
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="checkpoint of train.py")
    parser.add_argument("--out", help="file to write (default: the checkpoint's name with .onnx)")
    parser.add_argument("--int8", action="store_true", help="write a quantised file as well")
    parser.add_argument("--table", help="Markdown file for the speeds of all ways of inference")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each speed")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--data-dir", default="data", help="folder of the data set")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    model, checkpoint = evaluate.load_checkpoint(args.ckpt)
    images, labels = data.load(args.data_dir, train=False)
    out = Path(args.out or Path(args.ckpt).with_suffix(".onnx"))
    reference = evaluate.predict(model, images).softmax(1)
    accuracy = (reference.argmax(1) == labels).double().mean().item()
    print(f"PyTorch: accuracy {100 * accuracy:.2f} %")

    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "model.onnx"
        export(model, made)
        annotate(made, classes=json.dumps(data.CLASSES), accuracy=accuracy,
                 config=json.dumps(checkpoint["config"]), epoch=checkpoint["epoch"],
                 revision=checkpoint.get("environment", {}).get("git"))  # fmt: skip
        session = open_session(made, threads)
        exact, largest = compare("ONNX Runtime", predict(session, images), reference, labels)
        if largest > TOLERANCE:
            raise ValueError(f"probabilities differ by {largest:.2g}: no file is written")
        made.replace(out)
        sessions = {"ONNX Runtime, float32": session}
        judged = {"ONNX Runtime, float32": (exact, out.stat().st_size)}
        print(f"written: {out}")
        if args.int8:
            small = out.with_name(f"{out.stem}-int8.onnx")
            train_images, _ = data.load(args.data_dir, train=True)
            chosen = data.split_indices(seed=checkpoint["config"]["split_seed"])[0][:1024]
            quantise(out, train_images[chosen], Path(folder) / "int8.onnx")
            (Path(folder) / "int8.onnx").replace(small)
            session = open_session(small, threads)
            found = compare("ONNX Runtime, int8", predict(session, images), reference, labels)
            sessions["ONNX Runtime, int8"] = session
            judged["ONNX Runtime, int8"] = (found[0], small.stat().st_size)
            print(f"written: {small}")
    if args.table:
        weights = Path(args.ckpt).stat().st_size
        plain = Deployed(
            evaluate.load_checkpoint(args.ckpt)[0].to(memory_format=torch.contiguous_format)
        )
        last = Deployed(evaluate.load_checkpoint(args.ckpt)[0])
        models = {"PyTorch, float32, NCHW": (plain, None), "PyTorch, float32": (last, None)}
        if has_native_bfloat16(torch.device("cpu")):
            models["PyTorch, bfloat16"] = (last, torch.bfloat16)
        for name, (_, dtype) in models.items():
            hits = evaluate.predict(last.model, images, autocast_dtype=dtype).argmax(1) == labels
            judged[name] = (hits.double().mean().item(), weights)
        lines = tabulate(models, sessions, judged, images, args)
        Path(args.table).write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"export.py: {error}")
