use hostile::installation::*;
use hostile::world::Plan;

#[test]
fn an_honest_pop_of_the_hostile_build_does_what_a_pop_does() {
    let mut world = Plan::new(1).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    assert!(world.echo(0, flow, b"low tide", SECOND));
}
