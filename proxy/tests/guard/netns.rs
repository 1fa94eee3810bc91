//! Work in a network namespace.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread whose sockets belong to a namespace.
pub(crate) fn inside<T: Send + 'static>(place: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{place}");
    let body = move || {
        let file = std::fs::File::open(path).expect("the namespace is there");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("enter the namespace");
        work()
    };
    std::thread::spawn(body).join().expect("the thread does not panic")
}

/// Runs `ip` with these words in a namespace.
pub(crate) fn ip(place: &str, command: &str) {
    run(Command::new("ip").args(["-n", place]).args(command.split(' ')));
}

/// What a program says; it has to succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("start ip");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} (these tests need root): {errors}");
    out.into_owned()
}
