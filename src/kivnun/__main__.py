"""`python -m kivnun`, which is also what `torchrun -m kivnun` starts."""

from kivnun.cli.app import main

if __name__ == "__main__":
    main()
