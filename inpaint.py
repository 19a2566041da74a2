"""Complete images with a trained DCGAN, or with what one would use instead.

python inpaint.py                                       procedural faces, the shipped checkpoint
python inpaint.py ckpt=runs/train/<run>/weights.safetensors data=celeba data.root=path mask=random
python inpaint.py ckpt=... images=photo.jpg mask=file mask.path=hole.png 'crop=[x,y,w,h]'
python inpaint.py method=tv                             no search; ckpt says the size and the data
"""

from dcgan_inpaint.cli.entry_point import inpaint

if __name__ == "__main__":
    inpaint()
