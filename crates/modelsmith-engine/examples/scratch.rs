use modelsmith_engine::*;
use modelsmith_data::house::HouseConfig;
struct P;
impl train::Observer for P { fn event(&mut self, e: train::Event) { match e { train::Event::Step{step,total_steps,report,tokens_per_second,peak_memory,seconds_left} => if step%20==0 || step<4 { eprintln!("{step}/{total_steps} loss {:.4} gn {:.2} lr {:.5} tok/s {tokens_per_second:.0} mem {:?} left {seconds_left:.0}", report.loss, report.gradient_norm, report.learning_rate, peak_memory.map(|m|m>>20)) }, e => eprintln!("{e:?}") } } }
fn main() {
    let a: Vec<String> = std::env::args().collect();
    match a[1].as_str() {
        "make" => house::make(&HouseConfig::default(), a[2].as_ref()).unwrap(),
        "recall" => {
            let dev = device::device("flex").unwrap();
            let host = modelsmith_hosts::load(a[2].as_ref(), &dev).unwrap();
            let tok = modelsmith_data::Tokenizer::load(&a[2]).unwrap();
            let f = modelsmith_data::house::facts(&HouseConfig::default()).unwrap();
            let t = std::time::Instant::now();
            let r = house::recall(&host, &tok, &f, &[], &dev).unwrap();
            println!("{r:?} {} {:?}", r.share(), t.elapsed());
        }
        "run" => { let r = Recipe::read(a[2].as_ref(), &a[3..]).unwrap(); match tune::run(r, &Stop::listen().unwrap(), &mut P) { Ok(s) => println!("{}", serde_json::to_string(&serde_json::json!({"run":s.run,"before":s.loss_before,"after":s.loss_after,"sec":s.seconds,"mem":s.peak_memory})).unwrap()), Err(e) => { eprintln!("error: {e}"); } } }
        "resume" => { match tune::resume(a[2].as_ref(), &Stop::listen().unwrap(), &mut P) { Ok(s) => println!("{:?}", s.run), Err(e) => eprintln!("error: {e}") } }
        _ => {}
    }
}
