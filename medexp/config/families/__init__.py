"""The families of decoders that can be fine-tuned, a file each: how their layers are built, and
what follows from it for parameters and memory. A new family is a file here, its name in
`medexp.config.schema.Family` and its line in `registry`."""
