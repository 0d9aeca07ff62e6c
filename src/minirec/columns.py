"""Names of the columns and values that several tables share.

`minirec.schemas` says which table holds which of them, and in what type.
"""

USER_ID = "user_id"
ITEM_ID = "item_id"
RATING = "rating"
TIMESTAMP = "timestamp"
POSITION = "position"
TITLE = "title"
DESCRIPTION = "description"
TEXT = "text"
POPULARITY = "popularity"

SAMPLE_ID = "sample_id"
SPLIT = "split"
TARGET_ITEM_ID = "target_item_id"
HISTORY_ITEM_ID = "history_item_id"
SEEN_ITEM_ID = "seen_item_id"
PROMPT = "prompt"
N_TOKENS = "n_tokens"

ROLLOUT = "rollout"
COMPLETION = "completion"
TOKEN_ID = "token_id"  # noqa: S105 (a column, not a secret)
RANK = "rank"
REWARD = "reward"
MEAN_REWARD = "mean_reward"
FAILURE = "failure"
STD_REWARD = "std_reward"
LEARNABILITY = "learnability"
REPRESENTATIVENESS = "representativeness"
VALUE = "value"
REASON = "reason"
STAGE = "stage"
PICK = "pick"
TARGET = "target"
LAST_TITLES = "last_titles"
DISTANCE = "distance"
WHY = "why"
STRATEGY = "strategy"

METHOD = "method"
METRIC = "metric"
OTHER = "other"
BY = "by"
ARM = "arm"
SEED = "seed"
TOP_ITEM_ID = "top_item_id"

# values of `part`, what an arm of an experiment has to pay for, each made from those
# before
PROXY, REWARDS, GRADIENTS, EMBEDDINGS = "proxy", "rewards", "gradients", "embeddings"
SELECTION, TRAINING = "selection", "training"
PARTS = (PROXY, REWARDS, GRADIENTS, EMBEDDINGS, SELECTION, TRAINING)

# of a prompt, its place in the pool's draw
DRAW = "draw"

# values of `split`
PRETRAIN, TRAIN, VALID, TEST = "pretrain", "train", "valid", "test"

# values of `method`, beside POPULARITY
TRAINED, UNTRAINED, NEAREST = "trained", "untrained", "nearest"
ITEM_KNN, SASREC = "item_knn", "sasrec"

# values of `failure` in `rewards`
EMPTY, UNPARSABLE, NOT_FINITE = "empty", "unparsable", "not_finite"

# values of `reason` in `candidates`
KEPT, TOO_EASY, TOO_HARD, NO_SPREAD = "kept", "too_easy", "too_hard", "no_spread"
