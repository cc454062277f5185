//! Objects in images, as COCO describes them. The fixtures are written by `make_fixture.py`; nothing in them is edited
//! by hand.

mod files;
mod masks;
mod scores;
