"""Print the requirements in pyproject.toml, one a line: of extras, or to build and run ("run")."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    data = tomllib.load(file)
sets = {"run": data["build-system"]["requires"] + data["project"]["dependencies"]}
sets |= data["project"]["optional-dependencies"]
for name in sys.argv[1:]:
    print(*sets[name], sep="\n")
