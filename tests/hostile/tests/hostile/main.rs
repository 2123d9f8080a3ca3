//! What a PoP that cheats, and clients that mean harm, achieve: nothing.
//!
//! Behind each test stands which check keeps it so: taken out of the code, the test was seen to fail.

mod beacons;
mod certificates;
mod cheats;
mod clients;
mod frames;
mod introductions;
mod isolation;
mod relay;
