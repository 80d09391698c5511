"""A vignette with its reference, in the words of the shipped cases."""

QUESTION = (
    "A 29-year-old woman has had a sore throat and fever of 38.4 °C for three days, no cough. She"
    " takes ramipril 5 mg. She is allergic to penicillin. What is it?"
)
REFERENCE = """## Symptoms
- Sore throat and fever for three days without cough
## Causes
- Tonsillitis, most often viral; streptococci in some
## Precautions
- Paracetamol 1 g up to four times daily; clarithromycin 500 mg if bacterial
- Never aspirin under 16
## Red Flags
- Drooling or stridor: airway obstruction
- Rash with neck stiffness: meningitis
"""
