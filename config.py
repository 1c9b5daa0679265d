"""The settings of every script. Edit here; most can be set for one run by an option, see --help."""

from pathlib import Path

# Models: a name on the Hugging Face hub, or a folder that holds one.
GPT2: str = "gpt2"  # what the scripts without bert_ work on: gpt2, gpt2-medium, gpt2-large, gpt2-xl
BERT: str = "bert-base-uncased"  # what the bert_ scripts work on: bert-base-uncased, bert-large-uncased
LAYERS: dict[str, int] = {  # L of the known models; a folder or another name tells its own
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
MASKED: tuple[str, ...] = (  # of these, the ones that predict masked tokens: for the bert_ scripts
    "bert-base-uncased", "bert-large-uncased", "FacebookAI/roberta-base", "distilbert/distilbert-base-uncased",
    "answerdotai/ModernBERT-base",
)  # fmt: skip
SAFETENSORS_ONLY: bool = True  # a checkpoint in pickle format can run code when it is loaded

# Sentences
DATASET: str = "wikipedia"  # names the files made from them
SOURCE: str = "hub"  # "hub"; "docstrings" of the installed packages; or a file or folder of parquet, jsonl or txt
HUB_DATASET: str = "wikimedia/wikipedia"  # Departure: the paper's 20220301 dump is no longer served
HUB_CONFIG: str = "20231101.en"
READ_BYTES: int = 300_000_000  # of the parquet files, spread evenly over all of them; all would be 11 GB
SPACY: str | None = None  # the rule-based sentencizer; or a trained pipeline such as "en_core_web_sm"
DOCSTRING_PACKAGES: tuple[str, ...] = ("numpy", "sklearn", "matplotlib")  # few: all of them would take a minute
SENTENCES: int = 20_000  # as in the paper
TRAIN: int = 9_000  # the first ones fit the maps
VAL: int = 3_000  # the next ones judge them
POSITIONS: int = 1  # of a sentence, as in the paper; more where the states are wide: a fit wants many times d of them
SPLITS: dict[str, tuple[int, int]] = {"news": (9_000, 1_000)}  # a dataset's own TRAIN and VAL, as the paper's news has

# Maps: least-squares as in the paper, and to compare with it affine, ridge, low-rank, jacobian, and tuned (imported)
MAP: tuple[str, ...] = ("least-squares",)  # --map; those of another kind are in linreg/<m>/<d>@<kind>/
RANK: int = 16  # of low-rank maps, beside the identity
PROBES: int = 8  # backward passes a sentence, of jacobian ones

# Numbers
SEED: int = 0  # of every draw: sentences, positions
SCHEDULES: bool = True  # whether causal models alternate blocks and jumps; of more than 24 layers only some schedules
LAST_ONLY: bool = False  # only the jumps into the last layer, all that add_results.py needs; gpt2-xl has 1,176 in all
RCOND: float = 1.19e-7  # singular values below this times the largest count as zero (scikit-learn 1.2.0 on float32)
TAU: float = 4.0  # of the early-exit threshold
LAMBDAS_MAT: tuple[float, ...] = (-1.112, *(k / 10 for k in range(11)), 1.112)  # always exits ... never does
LAMBDAS: dict[str, tuple[float, ...]] = {  # of early exit; for id nine more, since its curve lies between the last two
    "id": (*LAMBDAS_MAT[:-1], *(round(1 + 0.0112 * k, 4) for k in range(1, 10)), LAMBDAS_MAT[-1]),
    "mat": LAMBDAS_MAT,
}

# Work
DEVICE: str = "auto"  # "cuda" where there is one, else "cpu"; "spread": over all devices, for a model too large for one
DTYPE: str = "float32"  # as in the paper; "auto": as the checkpoint has it, with states and maps in float32 still
BATCH_SIZE: int = 1024  # tokens that run together; enough to fill two cores, little enough to stay in their cache
OUT: Path = Path(__file__).resolve().parent  # holds experiment/ and linreg/

if __name__ == "__main__":  # prints the settings in force, which files are there, and the next command
    import sys

    from shortcut.pipeline import status

    status.main(sys.modules[__name__])
