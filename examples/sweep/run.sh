#!/bin/sh
# A small sweep on a CPU: rank and learning rate. Words behind the script go to the sweep.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python}"

"$python" -m medexp.train -m 'lora.r=choice(4,16)' 'training.learning_rate=choice(1e-3,4e-3)' \
    hydra/sweeper/sampler=grid hydra.sweeper.study_name=example sweep.n_trials=4 \
    training.max_steps=20 evaluation.answers=0 "$@"

# Its finished trials side by side, best first.
"$python" -m medexp.compare study=example
