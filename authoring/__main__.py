"""Turn the text of a notebook into what learners open, and keep everything that depends on it in step.

The text in notebooks/src is what people edit and review; the notebook, the lesson module, the badge, the
set-up cell and the tables of the README are made from it, so that nothing has to be kept equal by hand.

    python -m authoring build [02]        text -> notebook with outputs, and its lesson module
    python -m authoring text [02]         the same after a change of prose only: outputs are kept
    python -m authoring check             say what is out of step, without running anything
    python -m authoring run [02]          execute headless, leave HTML in build/
    python -m authoring student           notebooks for a class, for nbgrader, in build/student/
    python -m authoring stamp | lessons | readme | badge owner/name"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .build import build, check, run, update_text
from .course import ROOT, Course, CourseError
from .lessons import update_lesson
from .readme import update_readme
from .stamps import change_address, stamp
from .student import students


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("build", "text", "run", "stamp", "lessons"):
        one = commands.add_parser(command)
        one.add_argument("notebook", nargs="?", default="", help="a prefix such as 02; all when left out")
    for command in ("check", "readme", "student"):
        commands.add_parser(command)
    commands.add_parser("badge").add_argument("repository", help="owner/name")
    options, course = parser.parse_args(arguments), Course(root)
    each = {"build": build, "text": update_text, "stamp": stamp, "lessons": update_lesson}
    try:
        if options.command in each:
            for name in course.names(options.notebook):
                each[options.command](course, name)
            if options.command in ("build", "text") and course.readme.exists():
                update_readme(course)
        elif options.command == "run":
            run(course, course.names(options.notebook))
        elif options.command == "badge":
            change_address(course, options.repository)
            print(f"Badges, set-up cells and links point to https://github.com/{options.repository} now.")
        elif options.command == "check":
            if problems := check(course):
                raise CourseError("\n".join(problems))
            print("Texts, notebooks, lessons and README are in step.")
        else:
            {"readme": update_readme, "student": students}[options.command](course)
            if options.command == "readme":
                print("The tables of README.md are up to date.")
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"{where}{error.strerror or error}. Make room, or use a folder that you may write to.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing was written; the same command begins again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
