"""What encode_corpus and encode_queries share: the command line around `trove_steps.encoding`."""

import os
from pathlib import Path

from trove_steps.arguments import (
    add_model_arguments,
    batch_size,
    given_model_options,
    step_parser,
)
from trove_steps.distributed import communicator
from trove_steps.encoding.job import Job
from trove_steps.encoding.run import run
from trove_steps.files import read_json, write_json
from trove_steps.models.settings_resolution import resolve_settings


def encode(role: str, module: str, path_option: str, description: str) -> None:
    """Parse the command line of an encode step and run it; `role` is "corpus" or "queries"."""
    parser = step_parser(module, description)
    parser.add_argument(
        path_option,
        nargs="+",
        type=Path,
        required=True,
        dest="paths",
        metavar="FILE",
        help="the files of the collection, in order",
    )
    parser.add_argument(
        "--sha256",
        nargs="+",
        metavar="DIGEST",
        help="the SHA-256 that the files must have; computed if not given",
    )
    parser.add_argument(
        "--readers",
        type=Path,
        metavar="FILE",
        help="JSON: per file how it is read (id, title, text: names of fields; loader: module:function; "
        "collections: numbers of those that it belongs to)",
    )
    add_model_arguments(parser, role)
    parser.add_argument(
        "--encoding-cache-dir", type=Path, default=Path("cache"), help="where vectors are kept"
    )
    parser.add_argument(
        "--per-device-eval-batch-size",
        type=batch_size,
        default=0,
        metavar="N",
        help="most texts in one forward pass; 0: as many as --tokens-per-batch allows",
    )
    parser.add_argument(
        "--tokens-per-batch",
        type=batch_size,
        default=0,
        metavar="N",
        help="most tokens in one forward pass, padding included; 0: what suits the device",
    )
    parser.add_argument(
        "--dataset-name",
        default="",
        metavar="NAME",
        help="what a text format of the kind module:function gets as `dataset`",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="refuse to run unless this is the manifest that these inputs get",
    )
    parser.add_argument(
        "--name",
        default="",
        metavar="NAME",
        help="what messages call the model (default: its path)",
    )
    if role == "corpus":
        parser.add_argument(
            "--jobs",
            type=int,
            default=1,
            metavar="N",
            help="how many jobs encode this corpus together, through the store; needs --manifest",
        )
        parser.add_argument(
            "--helper-record",
            type=Path,
            metavar="FILE",
            help="only help: leave the manifest to another job and write this file when all is encoded",
        )
    parser.set_defaults(jobs=1, helper_record=None)
    arguments = parser.parse_args()
    if (arguments.jobs > 1 or arguments.helper_record) and not arguments.manifest:
        parser.error("--jobs and --helper-record need --manifest")
    if arguments.helper_record and arguments.manifest.exists():
        if int(os.environ.get("RANK", "0")) == 0:
            write_json(arguments.helper_record, {"helped": arguments.manifest.name})
        return
    folder = Path(arguments.model_name_or_path)
    name = arguments.name or str(folder)
    job = Job(
        role=role,
        paths=arguments.paths,
        digests=arguments.sha256,
        model_folder=folder,
        model_name=name,
        settings=resolve_settings(folder, given_model_options(arguments, role), name),
        cache_dir=arguments.encoding_cache_dir,
        batch_size=arguments.per_device_eval_batch_size or None,
        tokens_per_batch=arguments.tokens_per_batch or None,
        dataset=arguments.dataset_name,
        expected_manifest=arguments.manifest,
        readers=read_json(arguments.readers) if arguments.readers else None,
        jobs=arguments.jobs,
        helper_record=arguments.helper_record,
    )
    with communicator() as comm:
        run(job, comm)
