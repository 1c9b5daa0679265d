"""Settings of all scripts. Edit them here; most can be set for one run by an option, see --help."""

from pathlib import Path

# Models: a name on the Hugging Face hub, or a folder that holds one.
GPT2: str = "gpt2"  # the model of the scripts without bert_: gpt2, gpt2-medium, gpt2-large, gpt2-xl
BERT: str = "bert-base-uncased"  # the model of the bert_ scripts: bert-base-uncased, bert-large-uncased
LAYERS: dict[str, int] = {  # L of the known models; for any other model L is read from its config.json
    "gpt2": 12,
    "gpt2-medium": 24,
    "gpt2-large": 36,
    "gpt2-xl": 48,
    "bert-base-uncased": 12,
    "bert-large-uncased": 24,
    "EleutherAI/pythia-160m": 12,
    "EleutherAI/pythia-1b": 16,
    "facebook/opt-125m": 12,
    "Qwen/Qwen2.5-0.5B": 24,
    "Qwen/Qwen3-0.6B": 28,
    "google/gemma-2-2b": 26,
    "meta-llama/Llama-3.2-1B": 16,
    "meta-llama/Llama-3.1-8B": 32,
    "mistralai/Mistral-7B-v0.1": 32,
    "allenai/OLMo-2-0425-1B": 16,
    "FacebookAI/roberta-base": 12,
    "distilbert/distilbert-base-uncased": 6,
    "answerdotai/ModernBERT-base": 22,
}
MASKED: tuple[str, ...] = (  # the known models that predict masked tokens, for the bert_ scripts
    "bert-base-uncased", "bert-large-uncased", "FacebookAI/roberta-base", "distilbert/distilbert-base-uncased",
    "answerdotai/ModernBERT-base",
)  # fmt: skip
SAFETENSORS_ONLY: bool = True  # a checkpoint in pickle format can run code when it is loaded

# Sentences
DATASET: str = "wikipedia"  # the name of the data set in all file names
SOURCE: str = "hub"  # "hub"; "docstrings" (of installed packages); or a file or folder of parquet, jsonl or txt
HUB_DATASET: str = "wikimedia/wikipedia"  # Departure: the paper's 20220301 dump is no longer served
HUB_CONFIG: str = "20231101.en"
READ_BYTES: int = 300_000_000  # read from the parquet files, spread evenly over all of them; in full they are 11 GB
SPACY: str | None = None  # None: the rule-based sentencizer; or a trained pipeline such as "en_core_web_sm"
DOCSTRING_PACKAGES: tuple[str, ...] = ("numpy", "sklearn", "matplotlib")  # only a few: all packages would take a minute
SENTENCES: int = 20_000  # as in the paper
TRAIN: int = 9_000  # the first ones fit the maps
VAL: int = 3_000  # the next ones validate them
POSITIONS: int = 1  # per sentence; 1 in the paper. For wide states use more: a fit needs n to be many times d
SPLITS: dict[str, tuple[int, int]] = {"news": (9_000, 1_000)}  # TRAIN and VAL of single datasets: the paper's news

# Maps: least-squares as in the paper; for comparison affine, ridge, low-rank, jacobian, jacobian-later,
# jacobian-affine, trained, and tuned (imported)
MAP: tuple[str, ...] = ("least-squares",)  # --map; maps of other kinds are in linreg/<m>/<d>@<kind>/
RANK: int = 16  # rank of B in low-rank maps I + B
PROBES: int = 8  # backward passes per token position, for the jacobian map kinds

# Numbers
SEED: int = 0  # random seed for sampling sentences, token positions and Jacobian probes
SCHEDULES: bool = True  # True: causal models alternate blocks and jumps; above 24 layers by some schedules only
LAST_ONLY: bool = False  # True: only the jumps into the last layer, enough for add_results.py: 48 of gpt2-xl's 1,176
RCOND: float = 1.19e-7  # smaller singular values, relative to the largest, are zero (scikit-learn 1.2.0 on float32)
TAU: float = 4.0  # tau in the threshold of early exit
LAMBDAS: dict[str, tuple[float, ...]] = {  # for early exit: from always exiting early to never
    # id has nine more, since its curve is between the last two
    "id": (-1.112, *(k / 10 for k in range(11)), *(round(1 + 0.0112 * k, 4) for k in range(1, 10)), 1.112),
    "mat": (-1.112, *(k / 10 for k in range(11)), 1.112),
}

# Work
DEVICE: str = "auto"  # "cuda" if available, else "cpu"; "spread": over all devices, for models too large for one
DTYPE: str = "float32"  # as in the paper; "auto": the dtype of the checkpoint, with states and maps still in float32
BATCH_SIZE: int = 1024  # tokens per forward pass: enough to fill two cores, few enough for their cache
OUT: Path = Path(__file__).resolve().parent  # the folder of experiment/ and linreg/

if __name__ == "__main__":  # print the settings, the files that exist, and the next command
    import importlib
    import sys

    importlib.import_module("shortcut.pipeline.status").main(sys.modules[__name__])
