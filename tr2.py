import re,random,sys
sys.path.insert(0,"/tmp/wt/tasks")
from hebrewgpt_nb.grammar.exercises import EXERCISES
t=open("/tmp/wt/w/ex_b.txt").read()
def rep(a,b,n=1):
    global t
    assert t.count(a)==n,(a,t.count(a)); t=t.replace(a,b)
rep('''    return dict(imp="/".join(imperative), fut="/".join(future), that="/".join("ש" + f for f in future), inf=v["infinitive"])''',
'''    return dict(imp="/".join(imperative), fut="/".join(future), that="/".join("ש" + f for f in future),
                inf=v["infinitive"])''')
rep('''    imperative, future = [v[f"imperative {w}"] for w in ("ms", "fs", "p")], [v[f"future {w}"] for w in ("2ms", "2fs", "2p")]
''','''    imperative = [v[f"imperative {who}"] for who in ("ms", "fs", "p")]
    future = [v[f"future {who}"] for who in ("2ms", "2fs", "2p")]
''')
rep('''NUMBER_PATTERN = re.compile("|".join(rf"(?<![א-ת]){w}(?![א-ת])" for w in sorted(NUMBERS, key=len, reverse=True)) + r"|\\d+")
''','''LONGEST_FIRST = sorted(NUMBERS, key=len, reverse=True)
NUMBER = re.compile("|".join(rf"(?<![א-ת]){w}(?![א-ת])" for w in LONGEST_FIRST) + r"|\\d+")
''')
rep('''    found = {NUMBERS.get(w, int(w) if w.isdigit() else -1) for w in NUMBER_PATTERN.findall(" ".join(words_of(answer)))}
    return found == {n}''','''    found = NUMBER.findall(" ".join(words_of(answer)))
    return {int(w) if w.isdigit() else NUMBERS[w] for w in found} == {n}''')
rep('''CHECKS = dict(text=is_one_of, order=is_reordering, list=is_list, number=is_number, verdict=is_verdict, mention=is_mention, words=uses_words)
''','''CHECKS = dict(text=is_one_of, order=is_reordering, list=is_list, number=is_number, verdict=is_verdict,
              mention=is_mention, words=uses_words)
''')
rep('''def show(*names, seed=0): # one of each, and its gold passes
    records = [draw_record(EXERCISES[name], random.Random(seed)) for name in names]
    assert all(check_answer(r, r["output"]) for r in records)
    table = pd.DataFrame(records)[["instruction", "input", "output"]]
    return HTML(f'<div dir="rtl">{table.to_html(index=False)}</div>')''','''def drawn(draw, seed=0): # input, output
    return tuple(draw(random.Random(seed))[part] for part in ("input", "output"))

#%% new code
def show(*names, seed=0): # one of each, as a model is asked
    records = [draw_record(EXERCISES[name], random.Random(seed)) for name in names]
    table = pd.DataFrame(records)[["instruction", "input", "output"]]
    return HTML(f'<div dir="rtl">{table.to_html(index=False)}</div>')''')
cells=re.split(r"(?m)^(?=#%% )",t); out=[]
for c in cells:
    out.append(c)
    m=re.search(r"(?m)^@exercise\(.*?^def (\w+)\(",c,re.S|re.M)
    if not m: continue
    name=m[1]; best=None
    for seed in range(30):
        d=EXERCISES[name].draw(random.Random(seed))
        if best is None or len(d["input"]+d["output"])<best[0]: best=(len(d["input"]+d["output"]),seed,d)
    _,seed,d=best; s="" if seed==0 else f", {seed}"
    q=lambda x:'"'+x.replace("\\","\\\\").replace('"','\\"').replace("\n","\\n")+'"'
    one=f'test_eq(drawn({name}{s}), ({q(d["input"])}, {q(d["output"])}))'
    two=f'test_eq(drawn({name}{s}),\n        ({q(d["input"])},\n         {q(d["output"])}))'
    three=f'test_eq(drawn({name}{s})[1], {q(d["output"])})'
    pick=one if len(one)<=118 else two if max(map(len,two.split("\n")))<=118 else three
    if max(map(len,pick.split("\n")))>120: # conjugation
        pick=f'test_eq(drawn({name}{s})[1].split("\\n")[:2], {d["output"].split(chr(10))[:2]})'.replace("'",'"')
    out.append(f"#%% new code\n{pick}\n\n")
t="".join(out)
rep('''def some_subject(rng) -> Phrase:''','''def some_subject(rng: random.Random) -> Phrase:''')
a='''#%% new code
#| export
def some_words(rng'''
if t.count(a)==0:
    rep('''def some_words(rng''','''def some_words(rng''')
open("/tmp/wt/w/ex_c.txt","w").write(t)
