#!/usr/bin/env python3
"""Whether runs of the present layout (run.json) have the same bits as those of the old one (config.json).

    scripts/compare_layouts.py OLD NEW

OLD is the --out folder of a binary built at commit e561ba4, NEW that of a present one, for the same preset and arms.
Compared are every step and every evaluation of every run, its steps and parameters, and what a model wrote. Arms and
metrics are matched by their old and new names; `epoch` (once the way between two evaluations) and `score` (new) are
left out. Table 4 measures its budget at equal time: copy the shares of OLD/budgets.json before running NEW.
"""

import json
import pathlib
import sys

old, new = map(pathlib.Path, sys.argv[1:3])
ARMS={'table1':{'conditioned':'per-sequence','pooled':'pooled-current','norm-matched':'per-sequence-norm-matched'},
 'table4':{'norm-matched':'pooled-norm-matched'},'table5':{'norm-matched':'pooled-norm-matched','literal':'per-sequence'}, 'finetune':{'norm-matched':'pooled-norm-matched'}}
NAMES={'next_loss':'next_token_loss','kappa_plain':'kappa_sequence_plain','kappa_conditioned':'kappa_sequence_conditioned','pooled_kappa_plain':'kappa_pooled_plain','pooled_kappa_conditioned':'kappa_pooled_conditioned'}
def cell(c):
    c=c['pretraining']['cell'] if 'pretraining' in c else c['cell']
    return c
def load(root,is_new):
    out={}
    for f in sorted(root.rglob('run.json' if is_new else 'config.json')):
        if not (f.parent/'metrics.jsonl').exists(): continue
        c=json.load(open(f))
        ev=[json.loads(l) for l in open(f.parent/'metrics.jsonl')]
        s=json.load(open(f.parent/'summary.json'))
        if is_new:
            k=c['cell']; key=(k['row'],k['arm'],json.dumps(k['start']),k['budget'],k['seed'],c['stage'] or '')
            table=None
        else:
            k=cell(c)
            kind='table4' if 'budget' in k else 'table1' if 'row' in k else 'table5' if 'start' in k else 'finetune'
            stage={'table4': (c['task']['task'] if c.get('stage')=='fine-tuning' else 'pre-training')}.get(kind,'')
            budget={'tokens':'steps','time':'time'}[k.get('budget','tokens')]
            row=k.get('row') or k.get('model') or ('gpt2' if kind=='table5' else 'bert')
            arm=k['arm']
            if arm=='theorem': continue
            arm=ARMS[kind].get(arm,arm)
            key=(row,arm,json.dumps(k.get('start','set')),budget,k['seed'],stage)
        norm=[]
        for e in ev:
            e=dict(e); e.pop('epoch',None)
            if 'metrics' in e and not is_new:
                names=dict(NAMES)
                if kind=='finetune' or stage not in ('','pre-training'): names.update(kappa_plain='kappa_pooled_plain',kappa_conditioned='kappa_pooled_conditioned')
                m={}
                for n,v in e['metrics'].items():
                    n=names.get(n,n)
                    if n.startswith('next_loss_'): n='next_token_loss_'+n[10:]
                    m[n]=v
                e['metrics']=m
            if 'metrics' in e: e['metrics'].pop('score',None)
            norm.append(json.dumps(e,sort_keys=True))
        out[key]=(norm,s.get('parameters'),s.get('steps'),s.get('story') or s.get('text'))
    return out
a,b=load(old,False),load(new,True)
same=0
for k in sorted(set(a)|set(b)):
    if k not in a or k not in b: print('only', 'new' if k in b else 'old', k); continue
    if a[k]==b[k]: same+=1
    else:
        i=next((i for i,(x,y) in enumerate(zip(a[k][0],b[k][0])) if x!=y),None)
        print('differs',k,i,len(a[k][0]),len(b[k][0]), a[k][1:],b[k][1:]); 
        if i is not None: print('  ',a[k][0][i][:300]); print('  ',b[k][0][i][:300])
print(same,'runs with the same bits')
