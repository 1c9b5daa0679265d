"""The settings of every script. Edit here; most can be set for one run by an option, see --help."""

from pathlib import Path

# Models: a name on the Hugging Face hub, or a folder that holds one.
GPT2 = "gpt2"  # what the scripts without bert_ work on: gpt2, gpt2-medium, gpt2-large, gpt2-xl
BERT = "bert-base-uncased"  # what the bert_ scripts work on: bert-base-uncased, bert-large-uncased
LAYERS = {  # L of the known models; a folder or another name tells its own
    "gpt2": 12,
    "gpt2-medium": 24,
    "gpt2-large": 36,
    "gpt2-xl": 48,
    "bert-base-uncased": 12,
    "bert-large-uncased": 24,
}
SAFETENSORS_ONLY = True  # a checkpoint in pickle format can run code when it is loaded

# Sentences
DATASET = "wikipedia"  # names the files made from them
SOURCE = "hub"  # "hub"; "docstrings" of the installed packages; or a file or folder of parquet, jsonl or txt
HUB_DATASET = "wikimedia/wikipedia"  # Departure: the paper's 20220301 dump is no longer served
HUB_CONFIG = "20231101.en"
READ_BYTES = 300_000_000  # of the parquet files, spread evenly over all of them; all would be 11 GB
SPACY = None  # the rule-based sentencizer; or a trained pipeline such as "en_core_web_sm"
DOCSTRING_PACKAGES = ("numpy", "sklearn", "matplotlib")  # few: all of them would take a minute
SENTENCES = 20_000  # as in the paper
TRAIN = 9_000  # the first ones fit the maps
VAL = 3_000  # the next ones judge them
SPLITS = {"news": (9_000, 1_000)}  # a dataset's own TRAIN and VAL; this is the paper's other corpus

# Numbers
SEED = 0  # of every draw: sentences, positions
LAST_ONLY = False  # True: only the jumps into the last layer, all that add_results.py needs; gpt2-xl has 1,176 in all
RCOND = 1.19e-7  # singular values below this times the largest count as zero (scikit-learn 1.2.0 on float32)
TAU = 4.0  # of the early-exit threshold
LAMBDAS_MAT = (-1.112, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.112)  # always exits ... never does
LAMBDAS = {  # of early exit; for id nine more, since its curve lies between the last two
    "id": (*LAMBDAS_MAT[:-1], *(round(1 + 0.0112 * k, 4) for k in range(1, 10)), LAMBDAS_MAT[-1]),
    "mat": LAMBDAS_MAT,
}

# Work
DEVICE = "auto"  # "cuda" where there is one, else "cpu"
BATCH_SIZE = 1024  # tokens that run together; enough to fill two cores, little enough to stay in their cache
OUT = Path(__file__).resolve().parent  # holds experiment/ and linreg/

if __name__ == "__main__":  # prints the settings in force, which files are there, and the next command
    import sys

    from shortcut import overview

    overview.main(sys.modules[__name__])
