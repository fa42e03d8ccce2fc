"""Small programs beside the engine: converters of records and their like."""
