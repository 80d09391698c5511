#!/bin/sh
# Cases of your own from a spreadsheet. Words behind the script go to the training run.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python}"
cases="dataset=local dataset.path=examples/own_cases/cases.csv dataset.held_out=2 evaluation.answers=2"

# What is in the file, and what is wrong with it, before anything is trained.
"$python" -m medexp.audit $cases

# Some cases are held out, and answered before and after.
"$python" -m medexp.train $cases "$@"

# The answer of the tuned model to a question of your own.
"$python" -m medexp.ask run=last question="My calf is red, warm and swollen after a long flight."
