//! What Meridian promises, shown with real processes on loopback: one file a promise.
//!
//! One binary, so that it links once; the files are independent of each other.

mod apply_anywhere;
mod backend_dies;
mod bad_files;
mod bodies;
mod broken_log;
mod broken_store;
mod command_line;
mod cookies;
mod demo;
mod dnssec;
mod drain;
mod ejection;
mod full_disk;
mod garbage;
mod grow;
mod grow_under_load;
mod hostile;
mod http;
mod http2;
mod https;
mod keys;
mod killed_in_turn;
mod least_busy;
mod limits;
mod listener_moves;
mod name_server;
mod names_and_ports;
mod nearest_region;
mod on_down;
mod policies;
mod proxy_protocol;
mod rescue;
mod resolvers;
mod seed_list;
mod sessions_end;
mod shed;
mod shopper;
mod shut_windows;
mod split;
mod tcp;
mod terminate;
mod two_nodes;
mod unreachable_seed;
mod websocket;
